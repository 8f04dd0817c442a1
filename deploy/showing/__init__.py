"""What people are shown of a run: live, in logs, and in a report."""
