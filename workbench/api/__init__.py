"""What programs speak to a running server: REST, server-sent events, health."""
