"""An explanation as text, as a page and as code."""
