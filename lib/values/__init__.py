"""Values: frozen dataclasses that say what is meant (data, architectures, threats, objectives, recipes). No torch."""
