"""The generated parts of the documentation site: what MkDocs calls is in ``hook``."""
