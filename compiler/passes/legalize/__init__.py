"""What the target needs: element types it has kernels for, weights as its kernels read them."""
