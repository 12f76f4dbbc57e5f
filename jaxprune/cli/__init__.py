"""`jaxprune COMMAND`: one thin file a command. A command parses, calls the library, and hands back what to show."""
