"""The contract between operator, gateway, model pods and command line: types and names, no I/O."""
