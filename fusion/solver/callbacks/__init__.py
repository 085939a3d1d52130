"""What training offers beyond what a solver file can say."""
