"""The same echo on functions-framework."""

import functions_framework


@functions_framework.http
def echo(request):  # noqa: ANN001, ANN201
    """Send the body back."""
    return request.get_json(silent=True) or {}
