"""The subjects, one module each. Without its library a module cannot be imported, and its rows say so."""
