"""Why a photo gets its score: heat maps, gradients, changes that raise the score, and the page that shows them."""
