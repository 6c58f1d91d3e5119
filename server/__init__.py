"""The server: REST, the live stream and the page. It imports no torch."""
