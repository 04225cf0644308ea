"""Why a trained model answers what it answers."""
