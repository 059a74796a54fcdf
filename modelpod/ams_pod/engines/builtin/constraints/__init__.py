"""What holds answers to a form: grammars, compiled once, and which tokens they allow next, by llguidance."""
