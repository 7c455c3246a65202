"""Many runs: a space of configurations over local processes or an existing distributed engine."""
