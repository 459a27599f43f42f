"""Makes the folder of the tests importable: `import tiny`."""
