"""The demo's one error: something the person at the command line can put right."""


class DemoError(Exception):
    """A sentence for the user that names the argument to change; shown without a traceback."""
