"""A scanner, an attack and a hardener that moth-eval finds by their entry points."""
