"""What a study looks like: notes, figures and exports."""
