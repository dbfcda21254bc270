"""The command `tokenbridge`, one file a command. The roof: the only room that imports slurm and analysis."""
