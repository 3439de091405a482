"""Runtimes behind the Enhancer. Each imports its heavy library itself."""
