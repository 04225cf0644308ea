"""What is learned from a model beside its training: where its time goes, and why it answers what it answers."""
