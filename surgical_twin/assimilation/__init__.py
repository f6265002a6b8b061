"""The ensemble filter that corrects the reduced flow model by what is measured."""
