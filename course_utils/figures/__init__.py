"""What the notebooks show: plots, diagrams, maps of attention, and sliders around them."""
