"""What is recorded of runs and studies, and the tables and charts made of it: JSON and text, no model."""
