"""In-process doors: agent frameworks whose tools a local router chooses."""
