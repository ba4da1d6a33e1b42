"""Pipeline definition (DAG), and the command line that compiles, runs, submits and schedules it."""
