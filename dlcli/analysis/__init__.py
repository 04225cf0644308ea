"""What is learned from a model beside its training."""
