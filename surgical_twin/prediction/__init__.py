"""What would happen if: interventions on the reduced flow model, and what they do to pressure and flow."""
