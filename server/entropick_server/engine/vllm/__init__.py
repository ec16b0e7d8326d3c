"""The production engine: vLLM runs the model, the policy of this package decides every token.

vllm is imported in this folder only. On the server's side ``engine`` starts AsyncLLM (``launch``,
``worker_client``), drives it (``chain``, ``segments``) and reports (``slots``, ``gauges``, ``reporter``);
``processor``, ``rows``, ``worker_context``, ``worker_extension`` and ``attention`` run in vLLM's workers;
``wire`` and ``side_channel`` carry requests and figures between the two.
"""
