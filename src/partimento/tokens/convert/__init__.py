"""Other programs' codes: into packs (`build`), and out of them (`export`). docs/convert.md tells every format."""
