"""Studies for people: tables, notes, pages, drawings and exports."""
