"""The anytime inference service: from an image and a budget to a prediction that refines until the budget is spent."""
