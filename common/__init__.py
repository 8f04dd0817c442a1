"""What every process agrees on: records, configuration, wire format, lifecycle, rendering."""
