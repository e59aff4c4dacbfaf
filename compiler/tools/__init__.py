"""What measures a bundle: is it right (`verify`), and how fast is it (`bench`)."""
