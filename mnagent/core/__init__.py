"""The words every machine speaks: events in, actions and indications out, timers, drop reasons;
and the rule of prefix lifetimes that two rooms share."""
