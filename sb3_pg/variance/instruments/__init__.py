"""What a measurement is made with: models and their episodes, estimators, critics, gradients, policies some way off."""
