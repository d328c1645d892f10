"""seit_train: training vision models from token stores."""
