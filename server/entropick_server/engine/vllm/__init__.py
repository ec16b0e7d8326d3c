"""The production engine: vLLM runs the model, the policy of this package decides every token.

vllm is imported in this folder only. On the server's side ``engine`` starts AsyncLLM (``launch``,
``workers``), takes requests in (``admission``) and drives it (``chain``, ``pieces``); ``processor``, ``hub``,
``worker_extension`` and ``attention`` run in vLLM's workers; ``wire`` and ``side_channel`` are what passes
between the two.
"""
