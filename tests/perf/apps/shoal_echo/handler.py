"""The same echo as a shoal handler."""

from shoal import http


@http
async def echo(body: dict) -> dict:
    """Send the body back."""
    return body
