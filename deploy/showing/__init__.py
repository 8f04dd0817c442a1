"""What people are shown of a run: live, in logs, and in a report.

terminal, picture       a live view or plain lines; a status as people read it
situation               what a run waits for, and since when
observations            RUN/observations.jsonl
data_notes, data_lines  what is said of rows and samples
outcome, kept           what is said at the end, and how to go on
report, scene_cards, charts, column_tables    RUN/report.html
log_reading             a process's log, line by line
columns                 text that lines up
"""
