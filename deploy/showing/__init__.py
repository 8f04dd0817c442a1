"""What people are shown of a run: live, in logs, and in a report.

terminal, picture       a live view or plain lines; a status as people read it
live/                   the live view's pages and keys
situation               what a run waits for, and since when
observations            RUN/observations.jsonl
data_notes, data_lines  lines on rows and samples
outcome, kept           what is said at the end, and how to go on
report                  RUN/report.html, by `deploy.inspector.export`
charts, column_tables   charts and tables of pages
board_panels            panels of the Grafana board (`deploy.grafana_board`)
log_reading             a process's log, line by line
columns                 text that lines up

RUN/observations.jsonl. The learner writes what it measured itself into metrics.jsonl; the rollout
servers' side of the same steps is known to the launcher alone, which asks the broker. Values are
means over the looks at one version:

    {"step": 3, "time_s": 21.0, "broker/slots_used": 61.5, "rollout/idle_share": 0.12, ...}
"""
