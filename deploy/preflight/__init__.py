"""What can be known before anything is started or written. Each check raises ConfigError."""
