"""The words every machine speaks: events in, actions and indications out, timers, drop reasons."""
