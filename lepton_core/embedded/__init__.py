"""The deployment engine that comes with the core: it embeds a deployment in an application."""
