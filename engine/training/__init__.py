"""What turns batches into weights."""
