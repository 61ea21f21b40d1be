"""From the kernel's notifications to the events that machines understand."""
