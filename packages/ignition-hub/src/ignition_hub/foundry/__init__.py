"""Templates, runs, and the workflow behind *Train & Optimize*."""
