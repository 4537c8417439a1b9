"""Export: an edit in the forms that other programs take. `errata.export.forms` lists them."""
