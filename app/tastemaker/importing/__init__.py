"""How images come in: asking for an import (`requests`), the files it names (`sources`, zips in
`archives`), and the job that reads and writes them (`imports`)."""
