"""From hidden states and output heads to a loss with its gradient.

    hidden states, head --> logits of some rows --> figures, d loss / d logits --+
             ^                  (then of the next)     in the logits' memory     |
             '----- gradients, added up <----------------------------------------'

    loss               the loss of a step's tokens, with its gradient: `objective`
    chunk              some rows of it: their figures, and the derivative by their logits
    head               the output head: from hidden states to logits, a slice at a time
    normaliser         log-probabilities over the whole vocabulary from logits that come in pieces
    top_k              the K largest of very many columns
    likeliest          the likeliest tokens, for people
    divergence         the divergences and their derivatives, over buckets
    tokens             what is known about each response token; weights and shares
    visual_advantage   multipliers of tokens (VA-OPD), with its own equations
    gradients          the gradients of hidden states and head, added up over chunks
    plan               how many logits exist at a time

Equations. z is a vector of V logits at one response position, divided by the sampling temperature;
S is the student, T the teacher, y the sampled token. Code refers to them by number.

    (1)  log p(v) = z(v) - logsumexp(z)         both models, over the whole vocabulary
    (2)  A = ids of the K largest z_S,  S_i = p_S(A_i),  T_i = p_T(A_i)     K: objective.top_k
    (3)  with tail:     l = min(logsumexp_i log S_i, -1e-7),  log S_(K+1) = log(-expm1(l))
         without tail:  log S_i <- log S_i - logsumexp_j log S_j            the same for T
    (4)  forward_kl:    D = sum_b T_b log(T_b / S_b)
         reverse_kl:    D = sum_b S_b log(S_b / T_b)
         jsd:           m = (1 - a) S + a T                        a: objective.jsd_teacher_weight
                        D = (1 - a) sum_b S_b log(S_b / m_b) + a sum_b T_b log(T_b / m_b)
         sampled_reverse_kl:   D = log p_S(y) - log p_T(y)
    (5)  s_b = dD / d log S_b:   forward_kl  -T_b,   reverse_kl  S_b (log(S_b / T_b) + 1),
                                 jsd  (1 - a) S_b log(S_b / m_b)
    (6)  dD / dz_j = sum_i u_i [j = A_i] - p_S(j) sum_i u_i     u_i: s through (3) to log p_S(A_i)
    (7)  w = min(exp(log p_S(y) - log p_R(y)), objective.importance_clip), a constant
         p_R is the rollout's; both without banned ids; the exponent is cut to +-20; 1 with no clip
    (8)  L = sum over tokens of share * w * D
         sequence_mean:     share = 1 / (sequences of the step * tokens of the sequence)
         token_mean:        share = 1 / tokens of the step
         micro_batch_mean:  share = sequences of the micro-batch / sequences of the step
                                    / tokens of the micro-batch

Sources: arXiv 2605.18740, equation 3, for (1) to (4) and the sequence mean; its published code for
the tail and its floor, the special cases of (4) and the micro-batch mean. In (4) forward and
reverse KL are not limits of jsd, which tends to 0 at both ends. (5) keeps the path through m, and
its constant terms cancel in (6) because buckets sum to 1. For sampled_reverse_kl, A = {y} and u is
D itself, held constant: the score-function estimate of the gradient of KL(S || T).

Invariant: A, T, w and the shares are constants; the gradient reaches the student alone, and it does
not depend on how tokens were cut into chunks or packed into micro-batches (but for
micro_batch_mean, as published). tests/learner/objective compares all of it with plain tensors.

How to add a divergence: its name in `common.config.objective.DivergenceName`, and a `Divergence`
of this name in `divergence.DIVERGENCES`: its value by (4), its derivative by (5), and whether it is
of the sampled token alone. An option of its own is a key of `ObjectiveSection`. Its equation goes
into (4) above, and for the tests into `naive_divergence` of test_objective.py. In
tests/learner/objective, test_divergence.py compares names, equations and derivatives of all that
there are, and test_objective.py the whole loss.
"""
