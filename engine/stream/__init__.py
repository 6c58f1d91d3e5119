"""The one stream: events, their queue, and the sinks."""
