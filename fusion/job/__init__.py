"""A job: from trained nets and data to a fused, measured and exported net by one file; its steps and their record."""
