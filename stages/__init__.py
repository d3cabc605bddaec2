"""What is run: one module per pipeline stage, and the `triptych` command."""
