"""Students that need fewer network calls than their teacher."""
